//! The physical types of tables as Delta Lake writes them in its log.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::{
    ArrayType, DataType as DeltaType, DecimalType, MapType, PrimitiveType, StructField, StructType,
};
use pyflare_connectors::physical::of_child;
pub use pyflare_connectors::physical::{conform, difference, physical_schema};

/// The schema as Delta Lake's log spells it.
pub fn delta_fields(physical: &Schema) -> Result<Vec<StructField>, String> {
    physical
        .fields()
        .iter()
        .map(|field| {
            Ok(StructField::new(
                field.name(),
                delta_type(field.data_type())?,
                field.is_nullable(),
            ))
        })
        .collect()
}

fn delta_type(physical: &DataType) -> Result<DeltaType, String> {
    let primitive = |primitive| Ok(DeltaType::Primitive(primitive));
    match physical {
        DataType::Utf8View | DataType::Utf8 => primitive(PrimitiveType::String),
        DataType::BinaryView | DataType::Binary => primitive(PrimitiveType::Binary),
        DataType::Boolean => primitive(PrimitiveType::Boolean),
        DataType::Int32 => primitive(PrimitiveType::Integer),
        DataType::Int64 => primitive(PrimitiveType::Long),
        DataType::Float32 => primitive(PrimitiveType::Float),
        DataType::Float64 => primitive(PrimitiveType::Double),
        DataType::Date32 => primitive(PrimitiveType::Date),
        DataType::Timestamp(_, _) => primitive(PrimitiveType::Timestamp),
        DataType::Decimal128(precision, scale) => {
            let scale = u8::try_from(*scale).map_err(|_| "a decimal's scale is negative".to_owned())?;
            let decimal = DecimalType::try_new(*precision, scale).map_err(|error| error.to_string())?;
            primitive(PrimitiveType::Decimal(decimal))
        }
        DataType::List(element) => Ok(ArrayType::new(delta_type(element.data_type())?, true).into()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let (key, value) = (
                    delta_type(fields[0].data_type())?,
                    delta_type(fields[1].data_type())?,
                );
                Ok(MapType::new(key, value, true).into())
            }
            other => Err(format!("a map's entries are {other}")),
        },
        other => Err(format!("the type {other} has no counterpart in Delta Lake")),
    }
}

/// The physical schema of a table that Delta Lake's log describes.
pub fn physical_of_delta(delta: &StructType) -> Result<SchemaRef, String> {
    let fields: Result<Vec<Field>, String> = delta
        .fields()
        .map(|field| {
            Ok(Field::new(
                field.name(),
                arrow_type(field.data_type())?,
                field.is_nullable(),
            ))
        })
        .collect();
    Ok(Arc::new(Schema::new(fields?)))
}

fn arrow_type(delta: &DeltaType) -> Result<DataType, String> {
    let arrow = match delta {
        DeltaType::Primitive(primitive) => match primitive {
            PrimitiveType::String => DataType::Utf8View,
            PrimitiveType::Binary => DataType::BinaryView,
            PrimitiveType::Boolean => DataType::Boolean,
            PrimitiveType::Integer => DataType::Int32,
            PrimitiveType::Long => DataType::Int64,
            PrimitiveType::Float => DataType::Float32,
            PrimitiveType::Double => DataType::Float64,
            PrimitiveType::Date => DataType::Date32,
            PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            PrimitiveType::Decimal(decimal) => {
                DataType::Decimal128(decimal.precision(), decimal.scale() as i8)
            }
            other => return Err(format!("the type {other} was not written by PyFlare")),
        },
        DeltaType::Array(array) => DataType::List(Arc::new(Field::new(
            "element",
            of_child(arrow_type(array.element_type())?),
            true,
        ))),
        DeltaType::Map(map) => {
            let key = Field::new("key", of_child(arrow_type(map.key_type())?), false);
            let value = Field::new("value", of_child(arrow_type(map.value_type())?), true);
            let entries = Field::new("key_value", DataType::Struct(vec![key, value].into()), false);
            DataType::Map(Arc::new(entries), false)
        }
        other => return Err(format!("the type {other} was not written by PyFlare")),
    };
    Ok(arrow)
}
